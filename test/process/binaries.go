package process

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Binaries returns the directory of our programs, having looked that each of names is there: dir, or when that is empty the one that the
// variable BIN names, or bin. The latter two are relative to the root of the repository that this process works in.
func Binaries(dir string, names ...string) (string, error) {
	if dir == "" {
		if dir = os.Getenv("BIN"); dir == "" {
			dir = "bin"
		}
		if !filepath.IsAbs(dir) {
			root, err := repository()
			if err != nil {
				return "", err
			}
			dir = filepath.Join(root, dir)
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("%s is not there: run make build first, or name the directory of the binaries (in a test: in BIN)", filepath.Join(dir, name))
		}
	}
	return dir, nil
}

// repository returns the root of the repository: the folder of the module's go.mod, here or above.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if module(filepath.Join(dir, "go.mod")) == "module github.com/drover/drover" {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("this is not the repository of Drover: name the directory of the binaries")
		}
		dir = parent
	}
}

// module returns the first line of a go.mod, empty when there is none.
func module(name string) string {
	f, err := os.Open(name) //nolint:gosec // a go.mod
	if err != nil {
		return ""
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	scanner.Scan()
	return scanner.Text()
}
