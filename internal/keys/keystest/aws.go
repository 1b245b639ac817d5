package keystest

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
)

// AWS is AWS KMS: its JSON protocol, for the region eu-central-1.
type AWS struct {
	*cabinet
	server *httptest.Server
}

const (
	awsRegion = "eu-central-1"
	awsAccess = "AKIAEXPOSURE00000000"
	awsARN    = "arn:aws:kms:" + awsRegion + ":111122223333:key/"
)

// StartAWS starts one on a port of its own.
func StartAWS() (*AWS, error) {
	a := &AWS{cabinet: newCabinet()}
	a.server = httptest.NewServer(http.HandlerFunc(a.handle))
	return a, nil
}

// Close ends it.
func (a *AWS) Close() { a.server.Close() }

// Env is what programs need in their environment.
func (a *AWS) Env() map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL_KMS": a.server.URL, "AWS_REGION": awsRegion,
		"AWS_ACCESS_KEY_ID": awsAccess, "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
	}
}

func (a *AWS) make(kind Kind) string {
	random := make([]byte, 16)
	rand.Read(random) // it never fails
	id := hex.EncodeToString(random)
	name := strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-")
	a.add(name, kind)
	return name
}

// NewSigning makes a signing key.
func (a *AWS) NewSigning(kind Kind) string { return "awskms:///" + awsARN + a.make(kind) }

// NewWrapping makes a wrapping key.
func (a *AWS) NewWrapping() string { return "awskms:///" + awsARN + a.make(AES) }

// Key is the id of a key.
func (a *AWS) Key(keyURL string) string {
	return strings.TrimPrefix(strings.TrimPrefix(keyURL, "awskms:///"), awsARN)
}

// awsQuestion is all that the questions may hold.
type awsQuestion struct {
	KeyID             string `json:"KeyId"`
	Message           []byte
	MessageType       string
	SigningAlgorithm  string
	Plaintext         []byte
	CiphertextBlob    []byte
	EncryptionContext map[string]string
	KeySpec           string
	AliasName         string
	TargetKeyID       string `json:"TargetKeyId"`
	Tags              []struct{ TagKey, TagValue string }
}

// awsFault is an answer that is a fault.
type awsFault struct {
	status int
	Type   string `json:"__type"`
	Words  string `json:"message"`
}

func (a *AWS) handle(w http.ResponseWriter, r *http.Request) {
	var q awsQuestion
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		awsAnswer(w, nil, &awsFault{400, "SerializationException", err.Error()})
		return
	}
	if !strings.Contains(r.Header.Get("Authorization"), "Credential="+awsAccess+"/") {
		awsAnswer(w, nil, &awsFault{400, "UnrecognizedClientException", "The security token included in the request is invalid."})
		return
	}
	key := strings.TrimPrefix(q.KeyID, awsARN)
	f := a.next(key)
	serve(w, r, f, func(w http.ResponseWriter) {
		answer, fault := a.answer(strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService."), key, q, f)
		awsAnswer(w, answer, fault)
	})
}

func awsAnswer(w http.ResponseWriter, answer map[string]any, fault *awsFault) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if fault != nil {
		w.WriteHeader(fault.status)
		_ = json.NewEncoder(w).Encode(fault) // who went away needs no answer
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (a *AWS) answer(verb, key string, q awsQuestion, f Fault) (map[string]any, *awsFault) {
	switch f {
	case Busy:
		return nil, &awsFault{503, "DependencyTimeoutException", "The system timed out."}
	case Throttled:
		return nil, &awsFault{400, "ThrottlingException", "You have exceeded the rate at which you may call KMS."}
	}
	switch verb {
	case "CreateKey":
		id := a.make(map[string]Kind{"ECC_NIST_P256": P256, "SYMMETRIC_DEFAULT": AES}[q.KeySpec])
		return map[string]any{"KeyMetadata": map[string]any{"KeyId": id, "Arn": awsARN + id}}, nil
	case "CreateAlias":
		return a.alias(q)
	}
	k := a.look(key)
	switch {
	case k == nil:
		return nil, &awsFault{400, "NotFoundException", "Key '" + key + "' does not exist"}
	case k.denied:
		return nil, &awsFault{400, "AccessDeniedException", "User: arn:aws:iam::111122223333:user/en is not authorized to perform: kms:" + verb}
	case k.disabled:
		return nil, &awsFault{400, "DisabledException", awsARN + key + " is disabled."}
	}
	if verb == "Encrypt" {
		a.bind(key, awsContext(q))
	}
	return awsUse(verb, key, k, q, f)
}

// alias gives a key a second name.
func (a *AWS) alias(q awsQuestion) (map[string]any, *awsFault) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.keys[q.AliasName] != nil {
		return nil, &awsFault{400, "AlreadyExistsException", "An alias with the name " + q.AliasName + " already exists"}
	}
	a.keys[q.AliasName] = a.keys[strings.TrimPrefix(q.TargetKeyID, awsARN)]
	return map[string]any{}, nil
}

func awsUse(verb, key string, k *keyset, q awsQuestion, f Fault) (map[string]any, *awsFault) {
	v := k.versions[0]
	unusable := &awsFault{400, "InvalidKeyUsageException", awsARN + key + " key usage is not valid for " + verb + "."}
	answer := map[string]any{"KeyId": awsARN + key}
	switch {
	case verb == "DescribeKey":
		return map[string]any{"KeyMetadata": answer}, nil
	case (verb == "GetPublicKey" || verb == "Sign") == (k.kind == AES):
		return nil, unusable
	case verb == "GetPublicKey":
		return awsPublic(answer, k, v)
	case verb == "Sign":
		return awsSign(answer, v, q, f)
	case verb == "Encrypt":
		answer["CiphertextBlob"] = append([]byte(key), v.aead.Seal(nil, nil, q.Plaintext, awsContext(q))...)
		return answer, nil
	case verb == "Decrypt":
		return awsDecrypt(answer, key, v, q)
	}
	return nil, &awsFault{400, "UnknownOperationException", verb}
}

func awsPublic(answer map[string]any, k *keyset, v *version) (map[string]any, *awsFault) {
	der, err := x509.MarshalPKIXPublicKey(v.signer.Public())
	if err != nil {
		return nil, &awsFault{500, "KMSInternalException", err.Error()}
	}
	answer["PublicKey"], answer["KeyUsage"] = der, "SIGN_VERIFY"
	answer["KeySpec"] = map[Kind]string{P256: "ECC_NIST_P256", P384: "ECC_NIST_P384", RSA: "RSA_2048"}[k.kind]
	return answer, nil
}

func awsSign(answer map[string]any, v *version, q awsQuestion, f Fault) (map[string]any, *awsFault) {
	if q.MessageType != "DIGEST" || q.SigningAlgorithm != "ECDSA_SHA_256" || len(q.Message) != 32 {
		return nil, &awsFault{400, "ValidationException", "The digest does not match the algorithm."}
	}
	signature, err := v.sign(q.Message, f)
	if err != nil {
		return nil, &awsFault{500, "KMSInternalException", err.Error()}
	}
	answer["Signature"] = signature
	return answer, nil
}

func awsDecrypt(answer map[string]any, key string, v *version, q awsQuestion) (map[string]any, *awsFault) {
	if len(q.CiphertextBlob) > len(key) && !bytes.HasPrefix(q.CiphertextBlob, []byte(key)) {
		return nil, &awsFault{400, "IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation."}
	}
	plain, err := v.aead.Open(nil, nil, bytes.TrimPrefix(q.CiphertextBlob, []byte(key)), awsContext(q))
	if err != nil {
		return nil, &awsFault{400, "InvalidCiphertextException", ""}
	}
	answer["Plaintext"] = plain
	return answer, nil
}

func awsContext(q awsQuestion) []byte { return fmt.Append(nil, q.EncryptionContext) } // maps print in order
