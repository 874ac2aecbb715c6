package control

// DecodePage makes the decoder of a journal's pages testable.
var DecodePage = decodePage
