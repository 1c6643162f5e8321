// Package stack runs Drover on one machine for tests and for commands that put it to the test: the real binaries as processes of their own,
// on free ports of the loopback interface, with all their data in one directory. Every process can be killed, stopped, paused and started
// again on the same port and data; NATS, Temporal and the database can be taken away for a while.
//
// A stack is either spread over a process for each part, or embedded in one drover-dev:
//
//	s, err := stack.New(ctx, stack.Options{
//		Dir:             dir,                             // data, logs, agents' state
//		Postgres:        os.Getenv("DROVER_TEST_POSTGRES"), // a database of its own there; empty: SQLite
//		Servers:         2,                               // replicas of drover-server behind one endpoint
//		CenterWorkers:   2, TransitionHosts: 2,
//		Orchestrators:   1,
//	})
//	defer s.Close()
//
// New returns when everything answers. What runs is in the fields: Temporal, NATS, Servers, CenterWorkers, TransitionHosts, Orchestrators and
// Agents of a spread stack, Dev of an embedded one. Processes lists all of it. Each is a process.Process:
//
//	s.NATS.Kill()                       // SIGKILL; NATS is away
//	err = s.NATS.Restart(ctx)           // on the same port and streams, and ready
//	s.CenterWorkers[0].Kill()
//	err = s.CenterWorkers[0].Start()    // without waiting for it: it needs Temporal to be ready
//	err = s.TransitionHosts[0].Pause()  // SIGSTOP: a host that hangs
//	s.TransitionHosts[0].Continue()
//	err = s.Database.Cut(ctx)           // unreachable for every process, not for Database.Open
//	err = s.Database.Mend()
//
// A source server is an agent with disks. StartAgent registers it and waits until it is Available; started again it has nothing but its state:
//
//	a, err := s.StartAgent(ctx, "web-1", "disk-0.raw", "disk-1.raw")
//	a.Kill()
//	err = a.Start()
//
// To look at it there are Client (the SMC API), ConnectNATS, ConnectTemporal, Database.Open (past any cut), Drover (the command line) and
// Environ, the variables that reach it.
//
// Nothing outlives a stack: Stop stops every process as an operator would, Close kills them, both drop the database; and the kernel kills the
// processes when the program ends without either. Logs are in Dir/logs, one file a process over all its lives; Logs returns the end of each.
// ForTest ties a stack to a test: it is closed at its end, and the ends of the logs are shown, and the logs kept, when it has failed.
package stack
