// Package exportpb is the wire format of the files that phones download.
//
// The server writes and checks files field by field, without these types, so
// that a file never stands in memory as a whole; they are the second opinion:
// tests and the simulated phones decode with them.
package exportpb
