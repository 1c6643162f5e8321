package disks

import (
	"os"
	"path/filepath"
)

// Tool finds a program that may be where only root looks, as those of e2fsprogs are; empty when it is not installed.
func Tool(name string) string {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
