package certificate

// Covers lets tests ask about the HMAC alone.
var Covers = covers
