"""The migrations and the rooms' tables say the same."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import bessemer.app.migrations as migrations
from bessemer.access import tables as access_tables
from bessemer.app import tables as app_tables
from bessemer.app.platform import Platform
from bessemer.core.tables import metadata
from bessemer.ledger import tables as ledger_tables


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return ScriptDirectory.from_config(config)


def test_a_migrated_database_has_exactly_the_tables_of_the_rooms(platform: Platform) -> None:
    rooms = (access_tables.api_keys, app_tables.files, ledger_tables.usage)
    assert all(table.metadata is metadata for table in rooms)
    with platform.db.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
        tables = set(sa.inspect(connection).get_table_names())
    assert tables == {*metadata.tables, "alembic_version"}


def test_constraints_and_indexes_have_the_names_the_rooms_give_them(platform: Platform) -> None:
    with platform.db.read() as connection:
        inspector = sa.inspect(connection)
        for name, table in metadata.tables.items():
            found = {index["name"] for index in inspector.get_indexes(name)}
            assert found == {index.name for index in table.indexes}
            assert inspector.get_pk_constraint(name)["name"] == f"pk_{name}"


def test_the_head_known_without_alembic_is_alembics_head() -> None:
    assert scripts().get_heads() == [migrations.HEAD]


def test_a_change_nobody_migrated_would_be_seen(platform: Platform) -> None:
    changed = sa.MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.tables.values():
        table.to_metadata(changed)
    changed.tables["runs"].append_column(sa.Column("forgotten", sa.Text))
    with platform.db.read() as connection:
        context = MigrationContext.configure(connection)
        ((what, _, table, column),) = compare_metadata(context, changed)
    assert (what, table, column.name) == ("add_column", "runs", "forgotten")


def test_every_migration_can_be_undone(platform: Platform) -> None:
    from alembic.operations import Operations

    with platform.db.write() as connection:
        with Operations.context(MigrationContext.configure(connection)):
            for script in scripts().walk_revisions():
                script.module.downgrade()
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
