"""The conditions that are compared under, one TOML file each."""
