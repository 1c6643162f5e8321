// Package conformance proves the API with the vendor's own clients for Node.js: @alicloud/pop-core, which signs with
// HMAC-SHA1, and @alicloud/openapi-client, which signs with ACS3-HMAC-SHA256. package.json pins them.
//
// driver_test.go runs the clients. The tests of signature_test.go drive them against an endpoint made of package smc
// alone with canned answers (endpoint_test.go): signatures and encodings. life_test.go has them live a whole life at a real center
// with agents and disks (center_test.go), through every operation and every code that can be provoked: on SQLite with drover-dev, and on
// PostgreSQL, where DROVER_TEST_POSTGRES names a server, with a process for each part.
//
// Without node and npm the tests are skipped, except where CI is true in the environment: there they fail.
package conformance
