// Package acceptance tests Drover as its users have it: the real binaries as separate processes, real disks, real
// kills. Every test has a stack of its own in a temporary directory, on free ports of the loopback interface.
//
// The binaries are those of `make build`, in bin/ of this repository; the variable BIN names another directory.
// Nothing outlives a test: every process is killed at its end, and by the kernel when the test binary itself dies.
// When a test fails, the end of every log is shown and all logs are kept; the test says where.
package acceptance
