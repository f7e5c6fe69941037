package transporttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/transport"
)

// settler is a settler with a fault, which its functions put in. They may be nil.
type settler struct {
	transport.Settler
	ack  func(inner transport.Settler) error
	nack func(inner transport.Settler, delay time.Duration, reason string)
	term func(inner transport.Settler, reason string)
}

func (s settler) Ack() error {
	if s.ack != nil {
		return s.ack(s.Settler)
	}
	return s.Settler.Ack()
}

func (s settler) Nack(delay time.Duration, reason string) {
	if s.nack != nil {
		s.nack(s.Settler, delay, reason)
		return
	}
	s.Settler.Nack(delay, reason)
}

func (s settler) Term(reason string) {
	if s.term != nil {
		s.term(s.Settler, reason)
		return
	}
	s.Settler.Term(reason)
}

// onSettling makes a fault of settlers.
func onSettling(s settler) func() broken {
	return onDelivery(func(d *transport.Delivery) {
		if d.Settler != nil {
			faulty := s
			faulty.Settler = d.Settler
			d.Settler = faulty
		}
	})
}

// onDelivery makes a fault that changes deliveries; without a message they are dropped.
func onDelivery(change func(*transport.Delivery)) func() broken {
	return func() broken {
		return broken{deliver: func(inner func(transport.Delivery), d transport.Delivery) {
			if change(&d); d.Message != nil {
				inner(d)
			}
		}}
	}
}

// onInterest makes a fault that changes interests.
func onInterest(change func(*transport.Interest)) func() broken {
	return func() broken {
		return broken{receive: func(inner transport.Carrier, in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
			change(&in)
			return inner.Receive(in, deliver)
		}}
	}
}

// unique returns another name each time.
var unique = func() func() string {
	var n atomic.Int64
	return func() string { return fmt.Sprint("unique-", n.Add(1)) }
}()

// trackedFaults are the ways to fail interests that are durable, in a group or late.
var trackedFaults = []fault{
	{"acknowledgements are lost", "DurableResumes DurableInFlight DurableGoesOnAfterStop DurableDropsRepetitions ConcurrentAcks DurableDelaysNobody",
		onSettling(settler{ack: func(transport.Settler) error { return nil }})},
	{"acknowledgements fail", "DurableResumes ConcurrentAcks GroupHandlesOnce",
		onSettling(settler{ack: func(inner transport.Settler) error { inner.Ack(); return errors.New("disk full") }})},
	{"a delivery counts as handled", "DurableResumes DurableInFlight DurableGoesOnAfterStop NackDelivers NackEndsInDeadLetter GroupPassesOnWhatAMemberLeaves",
		onDelivery(func(d *transport.Delivery) {
			if d.Settler != nil {
				go d.Ack()
			}
		})},
	{"close counts as handled", "DurableResumes GroupPassesOnWhatAMemberLeaves LastOfADurableName", acknowledgingAtClose},
	{"no attempts", "DurableResumes NackDelivers GroupHandlesOnce GroupCountsAttempts", onDelivery(func(d *transport.Delivery) { d.Attempt = 0 })},
	{"Nack drops", "NackDelivers GivenBackDoesNotCount GroupPassesOnWhatIsGivenBack FirstSettlementCounts SettledInDeliver",
		onSettling(settler{nack: func(inner transport.Settler, _ time.Duration, reason string) { inner.Term(reason) }})},
	{"Nack does not wait", "NackDelivers NackHoldsNobodyUp",
		onSettling(settler{nack: func(inner transport.Settler, delay time.Duration, reason string) { inner.Nack(min(delay, 0), reason) }})},
	{"Nack holds others up", "NackHoldsNobodyUp",
		onSettling(settler{nack: func(inner transport.Settler, delay time.Duration, reason string) {
			if delay < time.Minute {
				inner.Nack(delay, reason)
			}
		}})},
	{"what is given back counts", "GivenBackDoesNotCount GroupPassesOnWhatIsGivenBack",
		onSettling(settler{nack: func(inner transport.Settler, delay time.Duration, reason string) { inner.Nack(max(delay, 0), reason) }})},
	{"Term delivers again", "Term SettledInDeliver",
		onSettling(settler{term: func(inner transport.Settler, reason string) { inner.Nack(0, reason) }})},
	{"the last settlement counts", "FirstSettlementCounts", settlingAgain},
	{"MaxDeliver is not looked at", "NackEndsInDeadLetter GroupCountsAttempts", onInterest(func(in *transport.Interest) { in.MaxDeliver = 1000 })},
	{"InFlight is not looked at", "DurableInFlight GroupPassesOnWhatAMemberLeaves DurableDelaysNobody", onInterest(func(in *transport.Interest) { in.InFlight = 100 })},

	{"durable names are made up", "DurableResumes DurableGoesOnAfterStop DurableInUse DurableKeepsRequests DurableDropsRepetitions", onInterest(func(in *transport.Interest) {
		if in.Durable != "" {
			in.Durable = unique()
		}
	})},
	{"there is one durable name", "DurableNamesAreApart", onInterest(func(in *transport.Interest) {
		if in.Durable != "" {
			in.Durable = "x"
		}
	})},
	{"nothing is durable", "DurableResumes DurableInFlight DurableInUse DurableKeepsRequests Term", onInterest(func(in *transport.Interest) { in.Durable = "" })},
	{"durable names begin with the topic", "DurableBeginsWithItsName", onInterest(func(in *transport.Interest) {
		if in.Kind == transport.TopicMessage && in.Durable != "" {
			in.Last = 100
		}
	})},
	{"a slow reader stops the others", "DurableDelaysNobody", onInterest(func(in *transport.Interest) {
		if in.Kind == transport.TopicMessage && in.Name == "/t" && !in.Tracked() {
			in.Durable, in.InFlight = unique(), 1
		}
	})},

	{"repetitions are not known", "DurableDropsRepetitions DurableMarksRepeatedRequests GroupDropsRepetitions", forgettingIDs},
	{"repetitions reach live interests", "Deduplicates", func() broken { return broken{} }},
	{"repeated requests are dropped", "DurableMarksRepeatedRequests", onDelivery(func(d *transport.Delivery) {
		if d.Repeated {
			d.Message = nil
		}
	})},
	{"repeated requests look new", "DurableMarksRepeatedRequests", onDelivery(func(d *transport.Delivery) { d.Repeated = false })},

	{"members are apart", "GroupHandlesOnce GroupOfServers GroupOfOneParticipant GroupPassesOnWhatAMemberLeaves GroupPassesOnWhatIsGivenBack GroupRemembers", onInterest(func(in *transport.Interest) {
		if in.Group != "" {
			in.Group = unique()
		}
	})},
	{"groups are one", "GroupAndOthers", onInterest(func(in *transport.Interest) {
		if in.Group != "" {
			in.Group = "x"
		}
	})},
	{"a group takes messages from others", "GroupAndOthers", onInterest(func(in *transport.Interest) {
		if in.Kind == transport.TopicMessage && in.Name == "/t" {
			in.Group = "g_1"
		}
	})},
	{"groups are not known", "GroupHandlesOnce GroupRemembers GroupDropsRepetitions", onInterest(func(in *transport.Interest) { in.Group = "" })},
	{"the first member gets all", "GroupOfOneParticipant", favouringTheFirst},
	{"what is given back comes back", "GroupPassesOnWhatIsGivenBack", func() broken {
		return broken{deliver: func(inner func(transport.Delivery), d transport.Delivery) {
			again := settler{Settler: d.Settler}
			again.nack = func(transport.Settler, time.Duration, string) { inner(d) }
			d.Settler = again
			inner(d)
		}}
	}},

	{"there is no last message", "LastComesFirst LastOfAPattern LastOfADurableName", onInterest(func(in *transport.Interest) { in.Last = 0 })},
	{"all messages are the last", "LastComesFirst LastOfAPattern LastOfADurableName", onInterest(func(in *transport.Interest) {
		if in.Last > 0 {
			in.Last = 100
		}
	})},
	{"something is missing after the last", "LastComesFirst LastMeetsLive LastOfFew", func() broken { return joining(func(inner func(transport.Delivery), _ transport.Delivery) {}) }},
	{"something comes twice after the last", "LastComesFirst LastMeetsLive LastOfFew", func() broken {
		return joining(func(inner func(transport.Delivery), d transport.Delivery) { inner(d); inner(d) })
	}},
	{"options are not looked at", "UnsupportedOptions", onInterest(func(in *transport.Interest) { in.Durable, in.Group, in.Last = "", "", 0 })},
}

// acknowledgingAtClose settles what the participant has not.
func acknowledgingAtClose() broken {
	var mu sync.Mutex
	var open []transport.Delivery
	return broken{
		deliver: func(inner func(transport.Delivery), d transport.Delivery) {
			mu.Lock()
			open = append(open, d)
			mu.Unlock()
			inner(d)
		},
		close: func(inner transport.Carrier, ctx context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			for _, d := range open {
				d.Ack()
			}
			return inner.Close(ctx)
		},
	}
}

// settlingAgain lets a Nack count after an Ack.
func settlingAgain() broken {
	return broken{deliver: func(inner func(transport.Delivery), d transport.Delivery) {
		again := settler{Settler: d.Settler}
		again.nack = func(transport.Settler, time.Duration, string) {
			d.Ack()
			inner(transport.Delivery{Message: d.Message, Settler: d.Settler, Attempt: d.Attempt + 1})
		}
		d.Settler = again
		inner(d)
	}}
}

// forgettingIDs makes every sending of a message another message.
func forgettingIDs() broken {
	var seen sync.Map // of transport.ID
	return broken{change: func(m *transport.Message) {
		if _, again := seen.LoadOrStore(m.ID, true); again {
			m.Info.PublisherGID = transport.NewGID()
			m.ID = transport.NewID(m.Info.PublisherGID, 1, "broken")
		}
	}}
}

// favouringTheFirst leaves all members of a group but the first without messages.
func favouringTheFirst() broken {
	var members atomic.Int64
	return broken{receive: func(inner transport.Carrier, in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
		if in.Group != "" && members.Add(1) > 1 {
			return func() {}, nil
		}
		return inner.Receive(in, deliver)
	}}
}

// joining treats the first delivery after the last messages in another way.
func joining(first func(inner func(transport.Delivery), d transport.Delivery)) broken {
	return broken{receive: func(inner transport.Carrier, in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
		if in.Last == 0 {
			return inner.Receive(in, deliver)
		}
		var joined atomic.Bool
		stop, err := inner.Receive(in, func(d transport.Delivery) {
			if joined.Swap(false) {
				first(deliver, d)
				return
			}
			deliver(d)
		})
		joined.Store(true)
		return stop, err
	}}
}
