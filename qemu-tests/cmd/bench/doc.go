// Command bench measures the engine on a disk of real size, against plain direct
// reads and against rsync in the same run, and says whether the budgets hold.
// 'make bench' runs it; it is no test, for a shared machine's seconds prove
// nothing. It builds the understudy program and measures it as a user would, with
// 'understudy bench'.
package main
