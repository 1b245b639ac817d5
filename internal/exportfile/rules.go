package exportfile

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"time"
	"unicode/utf8"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// The rules of a file, by the codes under which Check and Write name a broken
// one. Each was found by watching what deployed phones refuse; what breaks if
// it is broken stands beside those where it is not plain.
const (
	ruleZip              = "zip"                    // the zip says different things to different readers, or is damaged
	ruleMembers          = "members"                // exactly export.bin and export.sig, at top level
	ruleStoredDescriptor = "stored_with_descriptor" // phones cannot know where such a member ends
	ruleSize             = "size"                   // larger than we read, or than its packed size can honestly be
	ruleHeader           = "header"
	ruleMessage          = "message" // not the protobuf message that it should be
	ruleUnknownField     = "unknown_field"
	ruleTimes            = "times"
	ruleRegion           = "region"
	ruleBatchNumber      = "batch_number"
	ruleSignatureCount   = "signature_count"
	ruleSignatureName    = "signature_name"
	ruleSignatureAlgo    = "signature_algorithm"
	ruleSignatureOrder   = "signature_order"
	ruleSignatureDER     = "signature_encoding"
	ruleSignature        = "signature"
	ruleKeyLength        = "key_length" // makes phones loop for ever
	ruleRollingStart     = "rolling_start"
	ruleRollingPeriod    = "rolling_period"
	ruleRisk             = "transmission_risk" // as the next two: costs a phone that met the key all its matches
	ruleReport           = "report_type"
	ruleOnset            = "days_since_onset"
	ruleVariant          = "variant_of_concern"
	ruleRevokedInKeys    = "revoked_in_keys"
	ruleDuplicateKey     = "duplicate_key"
	ruleNotReleased      = "not_released" // whoever hears of the key could replay it
	ruleOrder            = "order"        // ours alone: tells nothing of who uploaded what with what
	ruleSigner           = "signer"       // ours alone: the private key does not do what it should
)

// What the fields of a key may hold.
const (
	maxPeriod  = exposure.IntervalsPerDay
	maxRisk    = 8
	maxOnset   = 14
	maxVariant = 4
)

// list is one of the two lists of keys in a file; its number is that of the
// field.
type list int32

const (
	primaryKeys list = fieldKeys
	revisedKeys list = fieldRevisedKeys
)

// String is the name of the field.
func (l list) String() string {
	if l == revisedKeys {
		return "revised_keys"
	}
	return "keys"
}

// checkExposure tells which rule a key of a list breaks, if any.
func checkExposure(e exposure.Exposure, l list) error {
	switch {
	case e.Start < 0:
		return errs.Invalid(ruleRollingStart, "the rolling start is %d, and must not be negative", e.Start)
	case e.Period < 1 || e.Period > maxPeriod:
		return errs.Invalid(ruleRollingPeriod, "the rolling period is %d, and must be 1..%d", e.Period, maxPeriod)
	case e.Risk < 0 || e.Risk > maxRisk:
		return errs.Invalid(ruleRisk, "the transmission risk is %d, and must be 0..%d", e.Risk, maxRisk)
	case e.Report < exposure.Unknown || e.Report > exposure.Revoked:
		return errs.Invalid(ruleReport, "the report type is %d, and must be 0..%d", int(e.Report), int(exposure.Revoked))
	case e.HasOnset && (e.DaysSinceOnset < -maxOnset || e.DaysSinceOnset > maxOnset):
		return errs.Invalid(ruleOnset, "the days since onset are %d, and must be -%d..%d", e.DaysSinceOnset, maxOnset, maxOnset)
	case e.Report == exposure.Revoked && l == primaryKeys:
		return errs.Invalid(ruleRevokedInKeys, "a revoked key stands in keys, and must stand in revised_keys")
	}
	return nil
}

// checkReleased tells whether a key may be handed out at now: once its period
// has ended and phones have stopped accepting it. It counts in int64, since a
// hostile start may stand next to the largest interval.
func checkReleased(e exposure.Exposure, now time.Time) error {
	end := (int64(e.Start) + int64(e.Period)) * int64(exposure.IntervalLength/time.Second)
	if end+int64(exposure.AcceptedAfterEnd/time.Second) > now.Unix() {
		return errs.Invalid(ruleNotReleased, "a key is still accepted by phones until %s after its period, and must not be published before", exposure.AcceptedAfterEnd)
	}
	return nil
}

// Compare is the order of the keys in a file: by start, period, report, risk,
// days since onset (those without first), and the key itself. It says nothing
// about people, and neighbours that look alike compress well.
func Compare(a, b exposure.Exposure) int {
	return cmp.Or(
		cmp.Compare(a.Start, b.Start),
		cmp.Compare(a.Period, b.Period),
		cmp.Compare(a.Report, b.Report),
		cmp.Compare(a.Risk, b.Risk),
		cmp.Compare(onsetRank(a), onsetRank(b)),
		bytes.Compare(a.Key[:], b.Key[:]),
	)
}

// onsetRank puts a key without symptom onset before all others.
func onsetRank(e exposure.Exposure) int64 {
	if !e.HasOnset {
		return -1 << 32
	}
	return int64(e.DaysSinceOnset)
}

// latestTime bounds timestamps: later ones are mistaken units.
const latestTime = 1 << 36

func checkTimes(start, end int64) error {
	if start <= 0 || end <= start || end > latestTime {
		return errs.Invalid(ruleTimes, "the timestamps are %d and %d: they must be Unix seconds, and the start before the end", start, end)
	}
	return nil
}

// maxRegion is far above any country or state code.
const maxRegion = 64

func checkRegion(region string) error {
	if len(region) > maxRegion || !utf8.ValidString(region) {
		return errs.Invalid(ruleRegion, "the region must be UTF-8 of at most %d bytes", maxRegion)
	}
	return nil
}

func checkBatchNumber(number, size int32) error {
	if number != 1 || size != 1 {
		return errs.Invalid(ruleBatchNumber, "the batch is %d of %d, and must be 1 of 1", number, size)
	}
	return nil
}

var keyNamePart = regexp.MustCompile(`^[a-zA-Z0-9_]{1,64}$`)

// checkNames holds for the signature infos of both members.
func checkNames(names []KeyName) error {
	if len(names) < 1 || len(names) > MaxSigners {
		return errs.Invalid(ruleSignatureCount, "there are %d signatures, and must be 1..%d", len(names), MaxSigners)
	}
	seen := make(map[KeyName]bool, len(names))
	for _, n := range names {
		if !keyNamePart.MatchString(n.ID) || !keyNamePart.MatchString(n.Version) {
			return errs.Invalid(ruleSignatureName, "the id and the version of a signing key are letters, digits and underscores, not %q and %q", n.ID, n.Version)
		}
		if seen[n] {
			return errs.Invalid(ruleSignatureName, "two signatures are named %s", n)
		}
		seen[n] = true
	}
	return nil
}

// ours turns a broken rule into a failure of this server: what Write is given
// is our own, so nobody outside can mend it. The code stays.
func ours(err error, format string, args ...any) error {
	return errs.From(err, errs.Internal, errs.CodeOf(err), "%s", fmt.Sprintf(format, args...))
}
