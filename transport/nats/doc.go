// Package nats carries messages over NATS: topics and services are subjects, groups are queue groups, and
// programs that know nothing of postbus can take part.
package nats
