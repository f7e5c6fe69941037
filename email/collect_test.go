package email

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

// TestCollect: what comes while a mail is on its way goes as one mail, to those it is for, in order; what comes while
// there is none goes at once, as an ordinary mail.
func TestCollect(t *testing.T) {
	withBatches(t, Batching{On: true}, func(b *batchTest) {
		for _, body := range []string{"1", "2", "3", "b@test>4", "5", "b@test>6", "A@test,b@test>7"} {
			b.send(b.Context(), body)
		}
		b.want("1", "2 3 5", "4 6", "7")
		for call, want := range map[string]time.Duration{"1": 1, "2": 2, "3": 2, "5": 2, "b@test>4": 3, "b@test>6": 3, "A@test,b@test>7": 4} {
			if b.wantError(call, 0, 0, nil); b.took[call] != want*time.Second {
				b.Errorf("%s took %v, want %d s", call, b.took[call], want)
			}
		}
		b.send(b.Context(), "8")
		b.want("1", "2 3 5", "4 6", "7", "8")
		if b.took["8"] != time.Second {
			b.Errorf("8 took %v", b.took["8"])
		}
	})
	withBatches(t, Batching{}, func(b *batchTest) {
		for i := range 4 {
			b.send(b.Context(), fmt.Sprint(i))
		}
		b.calls.Wait()
		if len(b.server.mails) != 4 {
			b.Errorf("%d mails without batching, want 4", len(b.server.mails))
		}
	})
}

// TestCollectLimits: a mail has no more messages and bytes than it may, and nothing is left behind.
func TestCollectLimits(t *testing.T) {
	withBatches(t, Batching{On: true, Messages: 3}, func(b *batchTest) {
		for i := range 9 {
			b.send(b.Context(), fmt.Sprint(i))
		}
		b.send(b.Context(), "a", "b", "c", "d")
		b.want("0", "1 2 3", "4 5 6", "7 8 a", "b c d")
	})
	withBatches(t, Batching{On: true, Bytes: 10000}, func(b *batchTest) {
		long := strings.Repeat("x", 3000)
		for i := range 7 {
			b.send(b.Context(), fmt.Sprint(i, "x", long))
		}
		b.send(b.Context(), "a"+strings.Repeat(long, 5), "b")
		b.calls.Wait()
		var counts []int
		for _, mail := range b.server.mails {
			bodies := bodiesOf(b.T, mail)
			if counts = append(counts, len(bodies)); len(mail) > 10000 && len(bodies) > 1 {
				b.Errorf("a mail of %d messages has %d bytes", len(bodies), len(mail))
			}
		}
		if !slices.Equal(counts, []int{1, 2, 2, 2, 1, 1}) {
			b.Errorf("mails of %d messages", counts)
		}
	})
}

// TestCollectSeveral: a call with several messages gets them sent in order, whatever their recipients. What is refused, or
// put off again and again, holds up none that come before it in the same call.
func TestCollectSeveral(t *testing.T) {
	withBatches(t, Batching{On: true}, func(b *batchTest) {
		b.poison("poison", "554 5.6.0 no")
		b.send(b.Context(), "1", "2", "b@test>3", "4", "5")
		b.send(b.Context(), "6", "b@test>7", "b@test>8", "poison", "9")
		b.send(b.Context(), "x", "y")
		b.send(b.Context(), "X", "poison", "Y")
		// The second and third batches are refused; what is in front of the poison is taken, what is behind it is not tried.
		b.want("1 2", "3", "4 5", "6 x y X poison Y", "6", "x", "y", "X", "poison", "7 8", "poison 9", "poison")
		for call, taken := range map[string]int{"6": 3, "X": 1} {
			b.wantError(call, transport.Permanent, taken, transport.ErrRefused)
		}
		for _, call := range []string{"1", "x"} {
			b.wantError(call, 0, 0, nil)
		}
	})
	withBatches(t, Batching{On: true}, func(b *batchTest) {
		b.poison("poison", "451 4.7.1 later")
		b.send(b.Context(), "1", "2", "poison", "3")
		b.want("1 2 poison 3", "1", "2", "poison")
		b.wantError("1", transport.Temporary, 2, nil)
	})
}

// TestCollectRefused: a refusal that may be for one of the messages is for that one alone, and all else is for all.
func TestCollectRefused(t *testing.T) {
	for _, test := range []struct {
		name    string
		reply   func(int, string) string
		mail    string // the reply to a mail with 4 in it
		outcome transport.Outcome
		is      error
		blamed  string // the calls
		mails   []string
	}{
		{"content", usual, "554 5.7.1 spam", transport.Permanent, transport.ErrRefused, "4", []string{"1", "2 3 4 5", "2", "3", "4", "5"}},
		{"size", usual, "552 5.3.4 too big", transport.Permanent, transport.ErrTooLarge, "4", []string{"1", "2 3 4 5", "2", "3", "4", "5"}},
		{"recipient", say(1, 100, "RCPT", "550 5.1.1 who?"), "", transport.Permanent, transport.ErrUndeliverable, "2345", []string{"1", "2 3 4 5"}},
		{"delayed", usual, "451 later", transport.Temporary, nil, "45", []string{"1", "2 3 4 5", "2", "3", "4"}},
		{"leaving", usual, "421 later", transport.Temporary, nil, "2345", []string{"1", "2 3 4 5", "2 3 4 5"}},
		{"lost", usual, "close", transport.Unknown, nil, "2345", []string{"1", "2 3 4 5"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			withBatches(t, Batching{On: true}, func(b *batchTest) {
				b.send(b.Context(), "1")
				b.server.setReply(test.reply)
				if test.mail != "" {
					b.poison("/4", test.mail)
				}
				for _, body := range []string{"2", "3", "4", "5"} {
					b.send(b.Context(), body)
				}
				if test.name == "recipient" {
					b.judge(nil)
				}
				b.want(test.mails...)
				for _, call := range []string{"1", "2", "3", "4", "5"} {
					if strings.Contains(test.blamed, call) {
						b.wantError(call, test.outcome, 0, test.is)
					} else {
						b.wantError(call, 0, 0, nil)
					}
				}
			})
		})
	}
}

// TestCollectContext: a call whose context ends before its mail is sent has certainly sent nothing, and delays nobody;
// one whose context ends later has perhaps.
func TestCollectContext(t *testing.T) {
	withBatches(t, Batching{On: true}, func(b *batchTest) {
		within := func(d time.Duration) context.Context {
			ctx, cancel := context.WithTimeout(b.Context(), d)
			b.Cleanup(cancel)
			return ctx
		}
		b.send(b.Context(), "1")
		b.send(within(time.Second/2), "2")
		b.send(b.Context(), "3")
		b.send(within(time.Second*3/2), "4")
		b.send(b.Context(), "5")
		time.Sleep(time.Second + time.Millisecond)
		b.send(within(time.Second/4), "6", "7")
		b.want("1", "3 4 5")
		b.wantError("2", transport.Temporary, 0, transport.ErrTimeout)
		b.wantError("4", transport.Unknown, 0, transport.ErrTimeout)
		b.wantError("6", transport.Temporary, 0, transport.ErrTimeout)
		for _, call := range []string{"1", "3", "5"} {
			b.wantError(call, 0, 0, nil)
		}
	})
}

// TestCollectGivenUp: when nobody waits for a mail any more, what comes next does not either.
func TestCollectGivenUp(t *testing.T) {
	withBatches(t, Batching{On: true}, func(b *batchTest) {
		b.send(b.Context(), "1")
		silent := true
		b.judge(func(mail string) string {
			if silent {
				silent = false
				return "silence"
			}
			return "250 slow ok"
		})
		ctx, cancel := context.WithTimeout(b.Context(), 3*time.Second)
		defer cancel()
		b.send(ctx, "2")
		b.send(ctx, "3")
		time.Sleep(2 * time.Second)
		b.send(b.Context(), "4")
		b.want("1", "2 3", "4")
		b.wantError("2", transport.Unknown, 0, transport.ErrTimeout)
		b.wantError("3", transport.Unknown, 0, transport.ErrTimeout)
		b.wantError("4", 0, 0, nil)
		if b.took["4"] != 2*time.Second+lastWord {
			b.Errorf("4 took %v", b.took["4"])
		}
	})
}

// TestCollectDelay: with a delay what follows the first message waits for more, but not longer, and not when
// there is enough for a mail, by number or by size.
func TestCollectDelay(t *testing.T) {
	withBatches(t, Batching{On: true, Messages: 3, Delay: 5 * time.Second}, func(b *batchTest) {
		b.send(b.Context(), "1")
		b.send(b.Context(), "2")
		time.Sleep(2 * time.Second)
		b.send(b.Context(), "3")
		time.Sleep(5 * time.Second)
		b.want("1", "2 3")
		if b.took["1"] != time.Second || b.took["2"] != 6*time.Second {
			b.Errorf("1 took %v, 2 took %v", b.took["1"], b.took["2"])
		}
		for _, body := range []string{"4", "5", "6"} {
			b.send(b.Context(), body)
		}
		time.Sleep(2 * time.Second)
		b.send(b.Context(), "7")
		b.want("1", "2 3", "4", "5 6 7")
		if b.took["5"] != 3*time.Second {
			b.Errorf("5 took %v", b.took["5"])
		}
	})
	withBatches(t, Batching{On: true, Bytes: 10000, Delay: 5 * time.Second}, func(b *batchTest) {
		b.send(b.Context(), "1")
		b.send(b.Context(), "2")
		time.Sleep(2 * time.Second)
		long := strings.Repeat("x", 10000)
		b.send(b.Context(), long)
		b.want("1", "2", long)
		if b.took["2"] != 3*time.Second {
			b.Errorf("2 took %v", b.took["2"])
		}
		if size := b.sender.collector.size; size != 0 {
			b.Errorf("%d bytes are left", size)
		}
	})
}

// TestCollectAlone: what others than postbus are to read, and what is no message of a node's, is a mail of its own.
func TestCollectAlone(t *testing.T) {
	withBatches(t, Batching{On: true}, func(b *batchTest) {
		b.sender.compat = compat{patterns: []string{"/rmw"}, routes: transport.Routes{{Pattern: "/rmw", To: []string{"a@test"}}}}
		answer := &transport.Message{Kind: transport.Response, Name: "/s", Body: []byte("answer"), ID: transport.NewID(transport.GID{2}, 1, "test"), InReplyTo: transport.ParseID("x@y")}
		answer.Info.SourceTime = time.Unix(1, 0)
		b.send(b.Context(), "1")
		b.send(b.Context(), "2")
		b.send(b.Context(), "rmw")
		b.send(b.Context(), "3")
		b.send(b.Context(), "4")
		b.sendMessages(b.Context(), "answer", []*transport.Message{answer})
		b.send(b.Context(), "5")
		b.want("1", "2", "rmw", "3 4", "answer", "5")
	})
}

// TestCollectInvalid: a message that can't be sent harms no other.
func TestCollectInvalid(t *testing.T) {
	withBatches(t, Batching{On: true}, func(b *batchTest) {
		invalid := topicMessage(1)
		invalid.Info.SourceTime = time.Time{}
		b.send(b.Context(), "1")
		b.send(b.Context(), "2")
		b.sendMessages(b.Context(), "invalid", []*transport.Message{invalid})
		b.send(b.Context(), "3")
		b.send(b.Context(), "4")
		b.send(b.Context(), "nobody>5")
		b.send(b.Context(), "nobody>6")
		b.want("1", "2", "3 4")
		for _, call := range []string{"invalid", "nobody>5", "nobody>6"} {
			b.wantError(call, transport.Permanent, 0, nil)
		}
		for _, call := range []string{"1", "2", "3", "4"} {
			b.wantError(call, 0, 0, nil)
		}
	})
}

// TestCollectClose: who waits when the carrier is closed is told.
func TestCollectClose(t *testing.T) {
	withBatches(t, Batching{On: true}, func(b *batchTest) {
		b.judge(func(string) string { return "silence" })
		b.send(b.Context(), "1")
		short, cancelShort := context.WithTimeout(b.Context(), time.Second/4)
		defer cancelShort()
		b.send(short, "gone before")
		time.Sleep(time.Second / 2)
		b.send(b.Context(), "2")
		b.send(b.Context(), "3")
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		defer cancel()
		if err := b.sender.close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			b.Errorf("close: %v", err)
		}
		b.calls.Wait()
		for _, call := range []string{"2", "3"} {
			if !errors.Is(b.errs[call], transport.ErrClosed) || b.took[call] != 0 {
				b.Errorf("%s: %v after %v", call, b.errs[call], b.took[call])
			}
		}
		b.wantError("1", transport.Unknown, 0, transport.ErrClosed)
		b.wantError("gone before", transport.Temporary, 0, transport.ErrTimeout)
		b.send(b.Context(), "4")
		if !errors.Is(b.errs["4"], transport.ErrClosed) {
			b.Errorf("4: %v", b.errs["4"])
		}
		b.reopen()
	})
}

// TestCollectCloseSeveral: a call that is told of the end knows how many of its messages have been taken.
func TestCollectCloseSeveral(t *testing.T) {
	withBatches(t, Batching{On: true}, func(b *batchTest) {
		b.send(b.Context(), "1")
		b.send(b.Context(), "2", "b@test>3")
		b.send(b.Context(), "4")
		b.send(b.Context(), "c@test>5")
		time.Sleep(5 * time.Second / 2) // 3 waits, behind 5
		if err := b.sender.close(b.Context()); err != nil {
			b.Error(err)
		}
		b.want("1", "2 4", "5")
		b.wantError("2", transport.Temporary, 1, transport.ErrClosed)
		b.wantError("c@test>5", 0, 0, nil)
		b.reopen()
	})
}

// TestCollectContextSeveral: a call whose context ends while its first messages are sent alone knows how many have been taken.
func TestCollectContextSeveral(t *testing.T) {
	withBatches(t, Batching{On: true}, func(b *batchTest) {
		ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
		defer cancel()
		b.send(b.Context(), "1")
		b.send(ctx, "2", "b@test>3")
		b.judge(func(mail string) string {
			if strings.Contains(mail, "/2") {
				cancel() // and the reply comes within lastWord
				return "250 ok"
			}
			return "250 slow ok"
		})
		b.want("1", "2")
		b.wantError("2", transport.Temporary, 1, context.Canceled)
		for _, l := range b.sender.collector.lanes {
			b.Errorf("%d calls have been filed", len(l.calls))
		}
	})
}
