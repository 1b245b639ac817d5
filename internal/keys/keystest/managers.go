package keystest

// Manager is a manager of keys that stands in for a real one: it speaks the
// documented protocol, and fails as it is told.
type Manager interface {
	// Env is what programs need in their environment to find it.
	Env() map[string]string

	// Close ends it.
	Close()

	// NewSigning makes a key of any kind, and gives the URL of a version of it;
	// NewWrapping makes one for wrapping.
	NewSigning(kind Kind) (keyURL string)
	NewWrapping() (keyURL string)

	// Key gives the name under which the methods below know the key of a URL.
	Key(keyURL string) string

	// Fail lets the next questions about a key fail, one after the other.
	Fail(key string, faults ...Fault)

	// Asked counts the questions about a key, without those for a login.
	Asked(key string) int

	// Deny takes the right to a key away, Disable switches it off, Remove
	// destroys it.
	Deny(key string)
	Disable(key string)
	Remove(key string)
}

// Fail is Manager.Fail.
func (c *cabinet) Fail(key string, faults ...Fault) {
	c.change(key, func(k *keyset) { k.faults = faults })
}

// Asked is Manager.Asked.
func (c *cabinet) Asked(key string) (asked int) {
	c.change(key, func(k *keyset) { asked = k.asked })
	return asked
}

// Deny is Manager.Deny.
func (c *cabinet) Deny(key string) { c.change(key, func(k *keyset) { k.denied = true }) }

// Disable is Manager.Disable.
func (c *cabinet) Disable(key string) { c.change(key, func(k *keyset) { k.disabled = true }) }

// Remove is Manager.Remove.
func (c *cabinet) Remove(key string) { c.change(key, func(k *keyset) { k.removed = true }) }

// TurnOver makes a new version of a key, which is then the one that works.
func (c *cabinet) TurnOver(key string) { c.add(key, c.look(key).kind) }

// Bound is what the wrappings by a key were bound to, first to last.
func (c *cabinet) Bound(key string) [][]byte { return c.look(key).bound }

func (c *cabinet) bind(key string, to []byte) {
	c.change(key, func(k *keyset) { k.bound = append(k.bound, to) })
}
