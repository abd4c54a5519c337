"""Every rival in the same run: real engines, one prompt, one link, one after the other."""
