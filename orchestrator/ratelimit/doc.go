// Package ratelimit is how fast a job may send, by the hour of the day: "20MB/s 08:00-18:00,50MB/s". A [Schedule] is a value that
// is written, parsed and asked what holds at a moment; Follow tells a job's delegate as the hours pass.
package ratelimit
