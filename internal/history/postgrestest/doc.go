// Package postgrestest runs a PostgreSQL server for a test, from the programs
// that the machine has.
package postgrestest
