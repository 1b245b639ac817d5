package keystest

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
)

// Fault is how a manager fails one question about a key.
type Fault int

// The faults that pass.
const (
	Busy      Fault = iota + 1 // 503: nothing was done
	Throttled                  // too many questions: nothing was done
	Lost                       // it was done, but the answer never arrives
	Slow                       // the answer comes when nobody waits any more
	Garbled                    // a bit of the answer changed on its way
	Forged                     // a good signature, over something else
	Pending                    // a version that the hardware is still making; of Google alone
)

// only gives the fault if it is this one.
func (f Fault) only(this Fault) Fault {
	if f == this {
		return f
	}
	return 0
}

// Kind is what a key is made of.
type Kind string

// The kinds. Phones want P256.
const (
	P256 Kind = "P-256"
	P384 Kind = "P-384"
	RSA  Kind = "RSA"
	AES  Kind = "AES"
)

// cabinet is what the managers here have in common: keys with versions, and
// what happens to who asks for them.
type cabinet struct {
	mu   sync.Mutex
	keys map[string]*keyset
	made int
}

// keyset is a key with its versions, the first of which is 1. Its fields belong
// to the cabinet's lock; a version does not change.
type keyset struct {
	kind     Kind
	versions []*version
	denied   bool
	hardware bool
	disabled bool
	removed  bool // still counts who asks
	faults   []Fault
	asked    int
	bound    [][]byte // additional data of what was encrypted
}

type version struct {
	id     string
	signer crypto.Signer // of P256, P384 and RSA
	aead   cipher.AEAD   // of AES
}

func newCabinet() *cabinet { return &cabinet{keys: map[string]*keyset{}} }

// name gives a name that no key has.
func (c *cabinet) name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	return fmt.Sprintf("key-%d", c.made)
}

// add makes a version of a key, and the key if there is none.
func (c *cabinet) add(name string, kind Kind) *version {
	v := newVersion(kind)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys[name] == nil {
		c.keys[name] = &keyset{kind: kind}
	}
	k := c.keys[name]
	k.versions = append(k.versions, v)
	return v
}

func newVersion(kind Kind) *version {
	v := &version{id: rand.Text()}
	var err error
	switch kind {
	case P256:
		v.signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		v.signer, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA:
		v.signer, err = rsa.GenerateKey(rand.Reader, 2048)
	case AES:
		v.aead, err = newAEAD()
	}
	if err != nil {
		panic(err) // randomness and constants: a broken test program
	}
	return v
}

func newAEAD() (cipher.AEAD, error) {
	key := make([]byte, 32)
	rand.Read(key) // it never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// look gives a copy of what is known of a key; nil if there is none.
func (c *cabinet) look(name string) *keyset {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.keys[name]
	if k == nil || k.removed {
		return nil
	}
	copied := *k
	return &copied
}

// next counts a question about a key and gives the fault that it meets, or 0.
func (c *cabinet) next(name string) (f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.keys[name]
	if k == nil {
		return 0
	}
	k.asked++
	if len(k.faults) > 0 {
		f, k.faults = k.faults[0], k.faults[1:]
	}
	return f
}

// change edits a key that must be there.
func (c *cabinet) change(name string, edit func(k *keyset)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	edit(c.keys[name])
}

// at gives the version with a number, counted from 1, or nil.
func (k *keyset) at(number int) *version {
	if number < 1 || number > len(k.versions) {
		return nil
	}
	return k.versions[number-1]
}

// sign answers as the fault wants it. The digest is of the kind's size.
func (v *version) sign(digest []byte, f Fault) ([]byte, error) {
	if f == Forged {
		digest = append([]byte{digest[0] ^ 1}, digest[1:]...)
	}
	signature, err := v.signer.Sign(rand.Reader, digest, crypto.SHA256)
	if f == Garbled && err == nil {
		signature[len(signature)-1] ^= 1
	}
	return signature, err
}

// serve lets do answer, unless a fault of the connection is due. Faults of the
// answer are left to do.
func serve(w http.ResponseWriter, r *http.Request, f Fault, do func(w http.ResponseWriter)) {
	switch f {
	case Slow:
		<-r.Context().Done()
	case Lost:
		do(httptest.NewRecorder())
		panic(http.ErrAbortHandler)
	default:
		do(w)
	}
}
