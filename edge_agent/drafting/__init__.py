"""The drafting thread, the loop it runs and the models it runs on."""
