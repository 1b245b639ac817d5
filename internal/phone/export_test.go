package phone

import "enkeyserver/internal/exposure"

// IdentifierKey lets the test compare the step between with its vector.
var IdentifierKey = identifierKey

// DigestOf lets the test compare digests with their vectors.
func DigestOf(app string, keys []exposure.Submitted, certificate string) Digest {
	return (&Upload{Keys: keys, Certificate: certificate}).digest(app)
}
