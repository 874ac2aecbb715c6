package image

// ImageVersion is imageVersion.
var ImageVersion = imageVersion
