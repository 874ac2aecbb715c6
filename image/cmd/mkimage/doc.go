// Command mkimage builds the delegate's image, and renews the list of packages that go into it.
//
//	mkimage [--out DIR] [--cache DIR] [--kernel debian|slim]  writes abd.xva and what belongs to it
//	mkimage lock [--cache DIR]                                writes image/lock.json from apt's signed index
//
// It runs in the product's source, needs Go and, unless the packages are in the cache already, apt. Exit codes: 0 done;
// 1 it could not, the cause is on standard error; 2 wrong usage.
package main
