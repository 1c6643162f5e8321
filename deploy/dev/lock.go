package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// lockDir makes this process the only one that uses dir, until the file it returns is closed or the process ends, however it ends.
func lockDir(dir string) (io.Closer, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder := make([]byte, 20)
		n, _ := io.ReadFull(f, holder)
		f.Close()
		return nil, fmt.Errorf("data directory %s is in use by another drover-dev (process %s): stop that one first, or use another --data",
			dir, bytes.TrimSpace(holder[:n]))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the data directory: %s: %w", path, err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the data directory: %s: %w", path, err)
	}
	return f, nil
}
