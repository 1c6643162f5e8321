// Package soak measures what a center costs that has many jobs and little to do: hundreds of incremental jobs wait for the next point of
// their grids, as they do nearly all the time. It is run by `make bench`; figures and what they mean are in docs/performance.md.
//
// The center is the embedded stack, drover-dev as a process of its own. Its jobs are made in its record while it is stopped, each by the
// transitions of a first run; the stack then starts their entities as it does after a restore. The source servers' agents are played.
package soak
