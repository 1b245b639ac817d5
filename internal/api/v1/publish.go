// Package apiv1 is the JSON words that phones and partners speak.
package apiv1

// MaxBody is the length of the longest request that is read, in bytes.
const MaxBody = 64_000

// Publish is the body of POST /v1/publish.
type Publish struct {
	Keys              []ExposureKey `json:"temporaryExposureKeys"`
	HealthAuthorityID string        `json:"healthAuthorityID"`    // names the app, not the authority
	Certificate       string        `json:"verificationPayload"`  // JWT of a health authority
	HMACKey           string        `json:"hmacKey"`              // base64; deployed apps spell it hmackey
	SymptomOnset      int32         `json:"symptomOnsetInterval"` // 0: not said
	Traveler          bool          `json:"traveler"`
	RevisionToken     string        `json:"revisionToken"` // from the newest answer, or noise
	Platform          string        `json:"platform"`      // android or ios
	DeviceProof       string        `json:"deviceVerificationPayload"`
	Padding           string        `json:"padding"` // ignored: it hides the size of the rest
}

// ExposureKey is a temporary exposure key as phones send it.
type ExposureKey struct {
	Key              string `json:"key"` // base64 of 16 bytes
	StartNumber      int32  `json:"rollingStartNumber"`
	Period           int32  `json:"rollingPeriod"`
	TransmissionRisk int32  `json:"transmissionRisk"`
}

// PublishV1Alpha1 is the body of the older POST /.
type PublishV1Alpha1 struct {
	Keys          []ExposureKey `json:"temporaryExposureKeys"`
	Regions       []string      `json:"regions"` // ignored: the server knows the app's regions
	AppPackage    string        `json:"appPackageName"`
	Certificate   string        `json:"verificationPayload"`
	HMACKey       string        `json:"hmackey"`
	SymptomOnset  int32         `json:"symptomOnsetInterval"`
	Traveler      bool          `json:"traveler"`
	RevisionToken string        `json:"revisionToken"`
	Platform      string        `json:"platform"`
	DeviceProof   string        `json:"deviceVerificationPayload"`
	Padding       string        `json:"padding"`
}

// V1 says the same in the newer words.
func (p PublishV1Alpha1) V1() Publish {
	return Publish{
		Keys:              p.Keys,
		HealthAuthorityID: p.AppPackage,
		Certificate:       p.Certificate,
		HMACKey:           p.HMACKey,
		SymptomOnset:      p.SymptomOnset,
		Traveler:          p.Traveler,
		RevisionToken:     p.RevisionToken,
		Platform:          p.Platform,
		DeviceProof:       p.DeviceProof,
	}
}

// PublishResponse answers every publish request, good or bad.
type PublishResponse struct {
	RevisionToken     string   `json:"revisionToken,omitempty"` // on every 200: without it phones count a failure
	InsertedExposures int      `json:"insertedExposures"`
	Error             string   `json:"error,omitempty"`
	Code              string   `json:"code,omitempty"`
	Warnings          []string `json:"warnings,omitempty"`
	Padding           string   `json:"padding,omitempty"`
}

// The codes of answers. Programs may rely on them.
const (
	CodePartialFailure       = "partial_failure"
	CodeBadRequest           = "bad_request"
	CodeUnknownApp           = "unknown_health_authority_id"
	CodeAuthorityNotLoaded   = "unable_to_load_health_authority"
	CodeMissingRegion        = "health_authority_missing_region_config"
	CodeInvalidCertificate   = "health_authority_verification_certificate_invalid"
	CodeInvalidAttestation   = "device_attestation_invalid"
	CodeMissingRevisionToken = "missing_revision_token"
	CodeInvalidRevisionToken = "invalid_revision_token"
	CodeKeyAlreadyRevised    = "key_already_revised"
	CodeInvalidTransition    = "invalid_report_type_transition"
	CodeInternal             = "internal_error"
	CodeUnauthorized         = "unauthorized"
)

// Headers of requests and answers.
const (
	HeaderVersion = "X-Api-Version" // on every answer
	HeaderChaff   = "X-Chaff"       // on requests that only hide the others

	Version = "v1"
)

// Values of Publish.Platform.
const (
	PlatformAndroid = "android"
	PlatformIOS     = "ios"
)
