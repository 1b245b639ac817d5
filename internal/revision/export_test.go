package revision

// WrapContext is what a wrapped key of this installation is bound to.
func WrapContext(w Wrapping) []byte { return w.context() }

// Unpack reads slots that were not authenticated.
var Unpack = unpack
