"""The tests on a PostgreSQL server of their own; see the README beside this file."""
