package temporalserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/server/common/config"
	sqliteschema "go.temporal.io/server/schema/sqlite"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/drover/drover/durable"
)

const (
	databaseFile = "temporal.db"
	// versionFile holds the version of the server that made the database. It is written last: a database without it is half made.
	versionFile = "VERSION"
	// freshFile is there while the database is new and Settle has not been called. It is written before the server answers.
	freshFile = "FRESH"
)

type namespace struct {
	name             string
	retention        time.Duration
	searchAttributes map[string]enumspb.IndexedValueType
}

// prepareDatabase makes sure that dir holds a database of this server's version. Fresh tells whether it is a new one.
//
// Temporal upgrades a SQLite file neither forth nor back, and reading one of another version fails late and obscurely. So a file of
// another version is moved aside, never deleted, and a new one is made.
func prepareDatabase(dir string, db *config.SQL, ns namespace, logger *zap.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("temporal: make the data directory: %w", err)
	}
	stamp, err := os.ReadFile(filepath.Join(dir, versionFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("temporal: read the version of the database: %w", err)
	}
	version := strings.TrimSpace(string(stamp))
	exists, err := fileExists(db.DatabaseName)
	if err != nil {
		return fmt.Errorf("temporal: look for the database: %w", err)
	}
	if exists && version == Version {
		return nil
	}

	// From here on the stamp must not vouch for what is half made.
	if err := os.Remove(filepath.Join(dir, versionFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("temporal: withdraw the version of the database: %w", err)
	}
	if exists {
		if version == "" {
			version = "unfinished"
		}
		aside := fmt.Sprintf("%s.%s.%s", db.DatabaseName, version, time.Now().UTC().Format("20060102T150405.000Z"))
		if err := moveDatabase(db.DatabaseName, aside); err != nil {
			return fmt.Errorf("temporal: move the database of version %s aside: %w", version, err)
		}
		logger.Warn("the Temporal database was made by another server version; it was moved aside and a fresh one is made",
			zap.String("made_by", version), zap.String("server", Version), zap.String("moved_to", aside))
	}
	if err := os.WriteFile(filepath.Join(dir, freshFile), nil, 0o600); err != nil {
		return fmt.Errorf("temporal: mark the database as fresh: %w", err)
	}
	if err := createDatabase(db, ns); err != nil {
		return err
	}
	if err := writeStamp(dir); err != nil {
		return fmt.Errorf("temporal: stamp the database with version %s: %w", Version, err)
	}
	return nil
}

// Fresh reports that the database in dir was made anew (first start, or a file of another version moved aside) and that Settle has not
// been called since: workflows that should be running are not, and have to be started again from the record kept elsewhere. Its answer
// holds once the server answers, in whatever process.
func Fresh(dir string) (bool, error) {
	fresh, err := fileExists(filepath.Join(dir, freshFile))
	if err != nil {
		return false, fmt.Errorf("temporal: look whether the database is fresh: %w", err)
	}
	return fresh, nil
}

// Settle notes that what had to be done after Fresh is done. Until then Fresh stays true over restarts, so a crash in between loses
// nothing.
func Settle(dir string) error {
	if err := os.Remove(filepath.Join(dir, freshFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("temporal: note that the database is settled: %w", err)
	}
	return nil
}

func createDatabase(db *config.SQL, ns namespace) error {
	// SQLite would create it readable by others.
	f, err := os.OpenFile(db.DatabaseName, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("temporal: create the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("temporal: create the database: %w", err)
	}
	if err := sqliteschema.SetupSchema(db); err != nil {
		return fmt.Errorf("temporal: create the schema in %s: %w", db.DatabaseName, err)
	}
	nsConfig, err := sqliteschema.NewNamespaceConfig(clusterName, ns.name, false, ns.searchAttributes)
	if err != nil {
		return fmt.Errorf("temporal: describe namespace %s: %w", ns.name, err)
	}
	nsConfig.Detail.Config.Retention = durationpb.New(ns.retention)
	if err := sqliteschema.CreateNamespaces(db, nsConfig); err != nil {
		return fmt.Errorf("temporal: create namespace %s: %w", ns.name, err)
	}
	return nil
}

// moveDatabase renames a SQLite database with the files that belong to it. The log goes first: should the move be cut off in between,
// what stays behind is moved next time, and no log is ever applied to a database it does not belong to.
func moveDatabase(from, to string) error {
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(from+suffix, to+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func writeStamp(dir string) error {
	return durable.WriteFile(filepath.Join(dir, versionFile), []byte(Version+"\n"), 0o600)
}

func fileExists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
