#!/bin/sh
# Makes the databases of Temporal in PostgreSQL, or brings them to the version of these tools. Safe to run again. Runs in the image
# temporalio/admin-tools, of the same version as the server; SQL_PASSWORD holds the password.
set -eu

: "${POSTGRES_SEEDS:?the host of PostgreSQL}"
: "${POSTGRES_USER:?the user who owns the databases}"

tool() {
  database=$1
  shift
  temporal-sql-tool --plugin postgres12 --ep "$POSTGRES_SEEDS" -p "${DB_PORT:-5432}" -u "$POSTGRES_USER" --db "$database" "$@"
}

for pair in temporal:temporal temporal_visibility:visibility; do
  database=${pair%:*}
  tool "$database" create
  tool "$database" setup-schema -v 0.0
  tool "$database" update-schema -d "/etc/temporal/schema/postgresql/v12/${pair#*:}/versioned"
done
