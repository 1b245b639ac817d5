package exportfile

import (
	"fmt"
	"regexp"
	"strconv"
	"time"

	"enkeyserver/internal/errs"
)

// ObjectName is where a file stands in its bucket.
func ObjectName(root string, start, end time.Time, number int) string {
	return fmt.Sprintf("%s/%d-%d-%05d.zip", root, start.Unix(), end.Unix(), number)
}

var objectName = regexp.MustCompile(`^(.+)/([0-9]{1,12})-([0-9]{1,12})-([0-9]{5})\.zip$`)

// ParseObjectName is the inverse of ObjectName.
func ParseObjectName(name string) (root string, start, end time.Time, number int, err error) {
	m := objectName.FindStringSubmatch(name)
	if m == nil {
		return "", time.Time{}, time.Time{}, 0, errs.Invalid("object_name", "an object name is <root>/<start>-<end>-<nnnnn>.zip")
	}
	root, start, end = m[1], unixSeconds(m[2]), unixSeconds(m[3])
	number, _ = strconv.Atoi(m[4])
	if ObjectName(root, start, end, number) != name {
		return "", time.Time{}, time.Time{}, 0, errs.Invalid("object_name", "numbers in an object name have no leading zeros")
	}
	return root, start, end, number, nil
}

// unixSeconds reads what the pattern has found to be at most 12 digits.
func unixSeconds(digits string) time.Time {
	n, _ := strconv.ParseInt(digits, 10, 64)
	return time.Unix(n, 0).UTC()
}

// IndexText is where index.txt stands: the list that phones read.
func IndexText(root string) string { return root + "/index.txt" }

// IndexJSON is where index.json stands: the list with sizes and hashes.
func IndexJSON(root string) string { return root + "/index.json" }

// IndexSignature is where index.sig.json stands: the signatures of index.json.
func IndexSignature(root string) string { return root + "/index.sig.json" }
