package postbus

import (
	"reflect"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
)

// Each field of the configuration is passed on.
func TestNATSConfigIsComplete(t *testing.T) {
	from := email.NATS{
		Servers: []string{"nats://a"}, Name: "n", Version: "1.0.0", Description: "d", User: "u", Password: "p", Token: "t", Credentials: "c", NKey: "k", Insecure: true,
		CA: []byte{1}, Certificate: []byte{2}, Key: []byte{3}, InboxPrefix: "i", MaxPayload: 1,
		Streams: []email.NATSStream{{Name: "S", Names: []string{"/a"}, Storage: "file", Replicas: 1, MaxAge: 1, MaxBytes: 2, MaxMessages: 3, Duplicates: 4}},
		Objects: email.NATSBucket{Bucket: "o", MaxAge: time.Hour, MaxBytes: 1, Storage: "file", Replicas: 1},
		Cache:   email.NATSBucket{Bucket: "c", MaxAge: time.Hour, MaxBytes: 1, Storage: "file", Replicas: 1},
	}
	check := func(where string, v reflect.Value) {
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s.%s is not set", where, v.Type().Field(i).Name)
			}
		}
	}
	check("from", reflect.ValueOf(from))
	to := natsConfig(from)
	check("to", reflect.ValueOf(to))
	check("Streams", reflect.ValueOf(to.Streams[0]))
	check("Objects", reflect.ValueOf(to.Objects))
	check("Cache", reflect.ValueOf(to.Cache))
}
