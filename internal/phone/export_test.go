package phone

// IdentifierKey lets the test compare the step between with its vector.
var IdentifierKey = identifierKey
