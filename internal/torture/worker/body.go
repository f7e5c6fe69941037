package worker

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"github.com/postbus/postbus/internal/torture/history"
)

// random makes what differs from message to message.
type random struct{ *rand.Rand }

func newRandom(seed uint64, process string) *random {
	h := fnv.New64a()
	_, _ = h.Write([]byte(process)) // never fails (package hash)
	return &random{rand.New(rand.NewPCG(seed, h.Sum64()))}
}

// body returns a body that says whose it is and of which number, with some more bytes: of
// text a person could read, or of any value.
func (r *random) body(gid string, n uint64, most int) []byte {
	body := fmt.Appendf(nil, "%s %d\n", gid, n)
	// Mostly small, now and then as large as allowed.
	size := r.IntN(max(most/8, 1))
	if r.IntN(50) == 0 {
		size = r.IntN(max(most, 1))
	}
	binary := r.IntN(3) == 0
	for range size {
		if binary {
			body = append(body, byte(r.Uint32()))
		} else {
			body = append(body, "etaoin shrdlu.\n"[r.IntN(15)])
		}
	}
	return body
}

// Parse reads whose a body is.
func Parse(body []byte) (gid string, n uint64, ok bool) {
	line, _, ok := bytes.Cut(body, []byte("\n"))
	if !ok {
		return "", 0, false
	}
	_, err := fmt.Sscanf(string(line), "%s %d", &gid, &n)
	return gid, n, err == nil
}

// answer is the answer to a request.
func answer(request []byte) []byte { return []byte("answer to " + history.Hash(request)) }

// upTo returns a time of up to d.
func (r *random) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(r.Int64N(int64(d)))
}
