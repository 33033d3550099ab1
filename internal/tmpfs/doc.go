// Package tmpfs lets a test have a file system of its own, small enough to be
// filled.
//
// To mount one needs privileges. So the test is run again, in a process that
// has its own mounts and, unless root started it, its own users: what is
// mounted there is seen by nobody else, and gone when the process is, however
// it ends.
package tmpfs
