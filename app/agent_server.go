package app

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/replica"
)

// describeServer tells the center what this server is and what its disks look like now.
func describeServer(version string, disks []string, probe func(string) (replica.DiskInfo, error)) (agentapi.Server, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return agentapi.Server{}, fmt.Errorf("ask the kernel for its name: %w", err)
	}
	hostname := unix.ByteSliceToString(uts.Nodename[:])
	kernel := unix.ByteSliceToString(uts.Release[:])
	release := osRelease()
	server := agentapi.Server{
		Hostname:     hostname,
		Platform:     platform(release["NAME"]),
		Architecture: unix.ByteSliceToString(uts.Machine[:]),
		KernelLevel:  kernelLevel(kernel),
		AgentVersion: version,
		Disks:        make([]agentapi.Disk, 0, len(disks)),
	}

	mounts := mountPoints()
	for i, path := range disks {
		disk, err := describeDisk(i, path, mounts, probe)
		if err != nil {
			return agentapi.Server{}, err
		}
		server.Disks = append(server.Disks, disk)
	}

	info := agentapi.SystemInfo{
		AgentMode: "daemon",
		AgentType: "drover",
		Cores:     strconv.Itoa(runtime.NumCPU()),
		Hostname:  hostname,
		OS:        release["PRETTY_NAME"],
		Kernel:    kernel,
	}
	total, available := memory()
	info.Memory, info.MemoryUsage = gib(total), gib(total-available)
	info.IPv4, info.IPv6 = addresses()
	data, err := json.Marshal(info)
	if err == nil && len(data) > agentapi.MaxSystemInfoBytes {
		info.OS, info.Kernel = "", "" // the only fields of any length the contract does not name
		data, err = json.Marshal(info)
	}
	if err != nil {
		return agentapi.Server{}, fmt.Errorf("encode the system information: %w", err)
	}
	server.SystemInfo = data
	return server, nil
}

func describeDisk(index int, path string, mounts map[string]string, probe func(string) (replica.DiskInfo, error)) (agentapi.Disk, error) {
	info, err := probe(path)
	if err != nil {
		return agentapi.Disk{}, fmt.Errorf("look at disk %d (%s): %w", index, path, err)
	}
	disk := agentapi.Disk{
		Index:     index,
		Path:      path,
		SizeBytes: info.SizeBytes,
		UsedBytes: info.UsedBytes,
		Parts:     make([]agentapi.Part, 0, len(info.Partitions)),
	}
	for n, p := range info.Partitions {
		mount := mounts[resolve(p.Device)]
		if mount == "" {
			mount = fileSystemLabel(path, p.OffsetBytes)
		}
		disk.Parts = append(disk.Parts, agentapi.Part{
			Device:      fmt.Sprintf("%d_%d", index, n),
			Path:        mount,
			SizeBytes:   p.SizeBytes,
			OffsetBytes: p.OffsetBytes,
			CanBlock:    true,       // disks are copied below the file system, whatever that is
			Need:        index == 0, // boot loader and root may lie in any partition of the system disk
		})
	}
	return disk, nil
}

// mountPoints returns where block devices are mounted, by device; the shortest path when there are several.
func mountPoints() map[string]string {
	points := map[string]string{}
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return points // no proc: partitions go by their labels
	}
	defer f.Close()
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || !strings.HasPrefix(fields[0], "/dev/") {
			continue
		}
		device, point := resolve(unescape.Replace(fields[0])), unescape.Replace(fields[1])
		if old, ok := points[device]; !ok || len(point) < len(old) {
			points[device] = point
		}
	}
	return points
}

// resolve follows the links of a device name (/dev/disk/by-uuid/…, /dev/mapper/…).
func resolve(device string) string {
	if target, err := filepath.EvalSymlinks(device); err == nil {
		return target
	}
	return device
}

// fileSystemLabel reads the label of an ext2, ext3, ext4 or XFS file system that begins at offset. It is
// empty when there is none: a label is a courtesy to who looks at the list.
func fileSystemLabel(path string, offset int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 2048)
	if _, err := io.ReadFull(io.NewSectionReader(f, offset, int64(len(head))), head); err != nil {
		return ""
	}
	const extSuperblock = 1024
	var label []byte
	switch {
	case binary.LittleEndian.Uint16(head[extSuperblock+0x38:]) == 0xEF53:
		label = head[extSuperblock+0x78 : extSuperblock+0x78+16]
	case bytes.HasPrefix(head, []byte("XFSB")):
		label = head[108 : 108+12]
	}
	return strings.ToValidUTF8(unix.ByteSliceToString(label), "")
}

// osRelease reads os-release(5).
func osRelease() map[string]string {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		if data, err := os.ReadFile(name); err == nil {
			return parseOSRelease(string(data))
		}
	}
	return nil
}

func parseOSRelease(text string) map[string]string {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		values[key] = value
	}
	return values
}

// platform is the name of a distribution as the contract's samples write it: "Ubuntu", not "Debian GNU/Linux".
func platform(name string) string {
	name = strings.TrimSuffix(strings.TrimSuffix(name, " Linux"), " GNU/Linux")
	if name == "" {
		return "Linux"
	}
	return name
}

// kernelLevel is the major version of a kernel release such as "6.1.0-18-amd64".
func kernelLevel(release string) int {
	major, _, _ := strings.Cut(release, ".")
	n, err := strconv.Atoi(major)
	if err != nil {
		return 0
	}
	return n
}

// memory returns the total and the available memory in bytes, 0 where it is not known.
func memory() (total, available int64) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = n << 10
		case "MemAvailable:":
			available = n << 10
		}
	}
	return total, available
}

func gib(n int64) string { return strconv.FormatFloat(float64(n)/(1<<30), 'f', 2, 64) }

// addresses returns the first global address of each family.
func addresses() (ipv4, ipv6 string) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", ""
	}
	for _, a := range addrs {
		network, ok := a.(*net.IPNet)
		if !ok || !network.IP.IsGlobalUnicast() {
			continue
		}
		switch v4 := network.IP.To4(); {
		case v4 != nil && ipv4 == "":
			ipv4 = v4.String()
		case v4 == nil && ipv6 == "":
			ipv6 = network.IP.String()
		}
	}
	return ipv4, ipv6
}
