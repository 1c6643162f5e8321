#!/bin/sh
# Makes Drover's namespace, or brings its retention to the one wanted, and adds the search attributes. Safe to run again. Needs the command
# temporal, and TEMPORAL_ADDRESS. A worker with the role orchestrator adds missing search attributes too, if it may.
set -eu

: "${TEMPORAL_ADDRESS:?host:port of Temporal}"
: "${TEMPORAL_NAMESPACE:?the namespace}"
# How long the history of a workflow that has ended can be looked at. The jobs and their runs are in Drover's own database, for ever.
retention=${TEMPORAL_RETENTION:-168h}

attempt=0
until temporal operator cluster health >/dev/null; do
  attempt=$((attempt + 1))
  if [ "$attempt" -ge 60 ]; then
    echo "Temporal at $TEMPORAL_ADDRESS does not answer" >&2
    exit 1
  fi
  sleep 2
done

if temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1; then
  temporal operator namespace update --namespace "$TEMPORAL_NAMESPACE" --retention "$retention"
else
  temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention "$retention"
fi

# A new namespace is known to all of Temporal after some seconds; one that has the attributes already says so, which is no failure.
attempt=0
until temporal operator search-attribute create --namespace "$TEMPORAL_NAMESPACE" \
  --name DroverFleet --type Keyword \
  --name DroverPhase --type Keyword \
  --name DroverReason --type Keyword \
  --name DroverJobId --type Keyword \
  --name DroverRuns --type Int \
  --name DroverAttempts --type Int; do
  attempt=$((attempt + 1))
  if [ "$attempt" -ge 15 ]; then
    echo 'the search attributes could not be added; the orchestrator will try' >&2
    exit 0
  fi
  sleep 2
done
