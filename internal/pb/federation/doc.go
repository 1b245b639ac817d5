// Package federationpb is what neighbouring authorities' servers say to each
// other.
package federationpb
