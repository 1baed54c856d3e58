"""The schema's history; `python -m migrations.apply` brings a database to the head."""
