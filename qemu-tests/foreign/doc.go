// Package foreign is the tier of tests that drive simulated pools with clients that others wrote: npm's xen-api, the client library
// of Xen Orchestra, and @xen-orchestra/xva, its writer of XVAs. They know nothing of this project, so what they cannot do with a
// simulated pool is a flaw of the pool.
//
//	Go test ── JSON ──▶ node client/*.mjs ── XenAPI over HTTPS ──▶ xapisim
//	        ◀─ JSON ──        │
//	                          └─ a complaint of the client on its console is a failure
//
// 'make foreign' installs Node.js and the packages that package-lock.json names, and runs it; the build tag is 'foreign'. The lock
// names no address of a registry, so that whichever is configured serves.
package foreign
