package replica

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// DiskInfo describes a disk for registration.
type DiskInfo struct {
	Path string `json:"path"`
	// SizeBytes is the size of the disk.
	SizeBytes int64 `json:"sizeBytes"`
	// UsedBytes is what the disk can hold of data: the allocated part of a
	// file, the whole of a block device.
	UsedBytes int64 `json:"usedBytes"`
	// PartitionTable is "gpt", "mbr" or "".
	PartitionTable string      `json:"partitionTable"`
	Partitions     []Partition `json:"partitions"`
}

// Partition is one partition of a disk.
type Partition struct {
	// Number is the partition's number in its table, from 1.
	Number int `json:"number"`
	// Device is the name the kernel gives the partition of such a disk.
	Device string `json:"device"`
	// OffsetBytes and SizeBytes say where it lies.
	OffsetBytes int64 `json:"offsetBytes"`
	SizeBytes   int64 `json:"sizeBytes"`
	// Type is the partition type: a GUID, or two hexadecimal digits.
	Type string `json:"type"`
	// UUID names the partition whatever disk it is on: the GPT's own, or the signature of the MBR and the number.
	UUID string `json:"uuid,omitempty"`
	// Name is the GPT name.
	Name string `json:"name,omitempty"`
}

// ProbeDisk describes a file or block device. A disk whose partition table is
// damaged has none; only a disk that cannot be read is an error.
func ProbeDisk(path string) (DiskInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return DiskInfo{}, fmt.Errorf("open the disk: %w", err)
	}
	defer f.Close()
	size, device, err := diskSize(f)
	if err != nil {
		return DiskInfo{}, err
	}
	if size <= 0 {
		return DiskInfo{}, fmt.Errorf("the disk %s is empty", path)
	}
	info := DiskInfo{Path: path, SizeBytes: size, UsedBytes: size}
	if !device {
		if info.UsedBytes, err = dataBytes(f, size); err != nil {
			return DiskInfo{}, err
		}
	}
	table, err := readPartitionTable(f, size)
	if err != nil {
		var first [1]byte
		if _, readErr := f.ReadAt(first[:], 0); readErr != nil {
			return DiskInfo{}, fmt.Errorf("read the disk %s: %w", path, readErr)
		}
		return info, nil
	}
	info.PartitionTable, info.Partitions = table.kind, table.partitions
	for i := range info.Partitions {
		info.Partitions[i].Device = partitionDevice(path, info.Partitions[i].Number, device)
	}
	return info, nil
}

func dataBytes(f *os.File, size int64) (int64, error) {
	var used int64
	for off := int64(0); off < size; {
		start, end, err := nextData(f, off, size)
		if err != nil {
			return 0, err
		}
		used += end - start
		off = max(end, off+1)
		if start >= size {
			break
		}
	}
	return used, nil
}

// partitionDevice follows the kernel: a "p" after a name that ends in a digit.
func partitionDevice(path string, number int, device bool) string {
	if last := path[len(path)-1]; !device || strings.IndexByte("0123456789", last) >= 0 {
		path += "p"
	}
	return path + strconv.Itoa(number)
}
