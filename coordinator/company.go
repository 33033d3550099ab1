package coordinator

import (
	"context"
	"slices"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/cluster"
)

const (
	// attendInterval is how often a leader is asked whether its log answers and
	// its workers are attached.
	attendInterval = 5 * time.Second
	// lonelyAfter is how long a worker may have no link to the leader of its
	// shards, though etcd knows it alive, before they are given to others; or,
	// if that goes for most workers, before another coordinator is to lead.
	lonelyAfter = 20 * time.Second
)

// attend watches a leadership until it ends or its turn does. Of one whose log
// does not answer, or that its workers do not reach, the cluster is told, so
// that another may try; and of a worker that alone does not reach it, so that
// others get its shards.
func (c *Coordinator) attend(turn context.Context, member *cluster.Member, partition int, leader *lead.Leader, ended <-chan error) <-chan error {
	c.setFit(turn, member, partition, true)
	fit, company := true, newCompany()
	defer func() {
		for id := range company.accused {
			c.letGo(turn, cluster.UnfitKey(partition, id), member)
		}
	}()
	ticker := time.NewTicker(attendInterval)
	defer ticker.Stop()
	for {
		select {
		case <-leader.Ended():
			return ended
		case <-turn.Done():
			return nil
		case <-ticker.C:
		}
		silent, err := leader.Silent(turn)
		if err != nil {
			continue
		}
		attached, err := leader.Attached(turn)
		if err != nil {
			continue
		}
		now, _ := c.view.now()
		company.look(now.servants(partition), attached, time.Now())
		lonely := company.lonely() && now.others(cluster.Coordinator, c.self())
		if is := !silent && !lonely; is != fit {
			if fit = is; lonely {
				c.logger.Warn("most workers of a partition do not reach its leader: another may try", "partition", partition)
			}
			c.setFit(turn, member, partition, fit)
		}
		if !lonely {
			c.accuse(turn, member, partition, company)
		}
	}
}

// accuse tells the cluster which workers do not reach the leader, and after a
// time forgets it.
func (c *Coordinator) accuse(ctx context.Context, member *cluster.Member, partition int, company *company) {
	now, _ := c.view.now()
	for id, since := range company.accused {
		if time.Since(since) >= unfitFor {
			delete(company.accused, id)
			c.letGo(ctx, cluster.UnfitKey(partition, id), member)
		}
	}
	if !now.others(cluster.Worker, "") {
		return
	}
	for _, id := range company.absent() {
		c.logger.Warn("a worker does not reach the leader of a partition: others get its shards of it",
			"partition", partition, "worker", string(id))
		company.accused[id] = time.Now()
		if err := c.put(ctx, member, cluster.UnfitKey(partition, id)); err != nil && ctx.Err() == nil {
			c.logger.Warn("telling that a worker does not reach a leader", "partition", partition, "worker", string(id), "error", err)
		}
	}
}

// company is which of the workers that should be attached to a leader are not,
// and since when. One goroutine.
type company struct {
	missing map[cluster.MemberID]time.Time // since when
	accused map[cluster.MemberID]time.Time // when the cluster was told
	should  int                            // be attached
	long    []cluster.MemberID             // missing for lonelyAfter
}

func newCompany() *company {
	return &company{missing: make(map[cluster.MemberID]time.Time), accused: make(map[cluster.MemberID]time.Time)}
}

// look takes note of who should be attached, and who is.
func (c *company) look(should map[cluster.MemberID]bool, attached map[string]bool, now time.Time) {
	c.should, c.long = len(should), nil
	for id := range c.missing {
		if !should[id] || attached[string(id)] {
			delete(c.missing, id)
		}
	}
	for id := range should {
		since, known := c.missing[id]
		switch {
		case attached[string(id)]:
		case !known:
			c.missing[id] = now
		case now.Sub(since) >= lonelyAfter:
			c.long = append(c.long, id)
		}
	}
}

// lonely reports whether most are missing.
func (c *company) lonely() bool { return 2*len(c.long) > c.should }

// absent returns who is missing, and of whom nobody was told.
func (c *company) absent() []cluster.MemberID {
	return slices.DeleteFunc(slices.Clone(c.long), func(id cluster.MemberID) bool {
		_, told := c.accused[id]
		return told
	})
}
