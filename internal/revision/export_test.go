package revision

// WrapContext is what a wrapped key of this ring is bound to.
func WrapContext(k *Keyring) []byte { return k.wrapContext() }

// Unpack reads slots that were not authenticated.
var Unpack = unpack
