// Package smc is the contract of the Server Migration Center API (product smc, version 2019-06-01, RPC style):
// its operations with their parameters and results, its states and error codes, its signature, and a client.
//
// Both halves of Drover speak it and neither imports the other: the center serves these operations, the
// orchestrator and the command line call them, here or at the vendor's endpoint. The package depends on the
// standard library only.
//
// An operation is one declaration (see declare): the tags of its request type say how its flat parameters are
// named and limited, and decoding, encoding, validation and the reference all come from them.
package smc

//go:generate go test . -run ^TestReference(OfErrors)?$ -update

// Version is the API version every request must name.
const Version = "2019-06-01"
