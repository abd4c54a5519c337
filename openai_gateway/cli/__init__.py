"""The `pipesd` command. Heavy libraries are imported inside the commands, so that `--help` is quick."""
