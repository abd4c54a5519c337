"""OpenAI-compatible HTTP front and command line on top of the edge agent.

`app.create_app` makes the web application, `cli` is the command line.
"""
