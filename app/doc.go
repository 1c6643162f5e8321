// Package app wires Drover's parts into processes: each Run function is the whole of one program, which its main and the
// tests share, with the configuration it takes.
package app
