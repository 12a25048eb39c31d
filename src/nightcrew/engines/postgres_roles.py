"""What a DBA does once: the roles of least privilege, or the scripts to run by hand (`schema/postgres_roles.sql`)."""

from __future__ import annotations

from nightcrew.engines import postgres_schema as schema
from nightcrew.engines.postgres_address import Address
from nightcrew.errors import EngineError

_MAY_LOOK = "SELECT coalesce(has_schema_privilege(to_regnamespace(%s)::oid, 'USAGE'), true)"


class PostgresAdministrator:
    """Makes roles for a schema. Raises `EngineError`, or a kind of it."""

    def __init__(self, url: str) -> None:
        self._address = Address(url)

    async def make_roles(self) -> list[str]:
        """Make the schema if need be, and the roles of least privilege, or mend them; return their names."""
        async with await self._address.connect() as connection:
            found = await connection.execute(_MAY_LOOK, (self._address.quoted,))
            row = await found.fetchone()
            # Who made the roles of a schema need not be of those who may look into it.
            if row is None or row[0]:
                await schema.migrate(connection, self._address)
            return await schema.make_roles(connection, self._address)

    async def script(self, *, roles: bool) -> str:
        """What would be run, for psql: the steps that are missing, and the roles."""
        parts = [schema.migration_script(await self._known(), self._address)]
        if roles:
            parts.append(schema.roles_script(self._address))
        return "\n".join(part for part in parts if part)

    async def _known(self) -> int:
        """How many steps were taken; 0 where nobody answers: the script is then for a new store."""
        try:
            connection = await self._address.connect()
        except EngineError:
            return 0
        async with connection:
            return await schema.version(connection, self._address)
