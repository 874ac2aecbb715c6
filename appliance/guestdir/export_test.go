package guestdir

// OpenAs is Open in a process of another id.
var OpenAs = open
