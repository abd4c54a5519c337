"""The web page at `/`: a chat that shows where each token comes from and what it cost."""
