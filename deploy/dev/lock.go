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

// lockParts makes this process the only one that serves these parts of dir, until what it returns is closed or the process ends, however
// it ends.
func lockParts(dir string, parts []string) (io.Closer, error) {
	var held locks
	for _, part := range parts {
		f, err := lockPart(dir, part)
		if err != nil {
			return nil, errors.Join(err, held.Close())
		}
		held = append(held, f)
	}
	return held, nil
}

// takeTurn waits until no other process sets up dir, and keeps the turn until what it returns is closed.
func takeTurn(dir string) (io.Closer, error) {
	path := filepath.Join(dir, "setup.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the data directory: %s: %w", path, err), f.Close())
	}
	return f, nil
}

type locks []*os.File

// Close gives the locks back.
func (l locks) Close() error {
	var err error
	for _, f := range l {
		err = errors.Join(err, f.Close())
	}
	return err
}

func lockPart(dir, part string) (*os.File, error) {
	path := filepath.Join(dir, part+".lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder := make([]byte, 20)
		n, _ := io.ReadFull(f, holder)
		f.Close()
		return nil, fmt.Errorf("data directory %s: its part %s is in use by another drover-dev (process %s): stop that one first, or use another --data",
			dir, part, bytes.TrimSpace(holder[:n]))
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
