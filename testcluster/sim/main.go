package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	seeds := flag.Uint64("seeds", 1000, "how many seeds to run")
	seed := flag.Uint64("seed", 0, "run this seed only (with -seeds not given), or start from it")
	trace := flag.Bool("trace", false, "print what happens")
	plant := flag.String("plant", "", "fault to plant: "+strings.Join(allPlants, ", "))
	mode := flag.String("mode", "", "what goes wrong: "+strings.Join(slices.Compact(slices.Clone(modes)), ", ")+", "+modeAmnesia+"; empty: by the seed")
	nodes := flag.Int("nodes", 0, "1 to 16; 0: mostly three, sometimes two, four or five")
	referee := flag.Bool("referee", false, "two nodes and a referee; -elections is implied")
	members := flag.Bool("members", false, "nodes are added and dropped: 3, 4, 5, 3; -elections is implied")
	elections := flag.Bool("elections", false, "the generation changes: members are excluded, recover and come back")
	workers := flag.Int("workers", runtime.NumCPU(), "seeds run at a time")
	flag.Parse()
	if *plant != "" && !slices.Contains(allPlants, *plant) {
		fmt.Fprintf(os.Stderr, "sim: unknown fault %q; there are %s\n", *plant, strings.Join(allPlants, ", "))
		os.Exit(2)
	}
	if *mode != "" && !slices.Contains(modes, *mode) && *mode != modeAmnesia {
		fmt.Fprintf(os.Stderr, "sim: unknown mode %q\n", *mode)
		os.Exit(2)
	}
	one := false
	flag.Visit(func(f *flag.Flag) { one = one || f.Name == "seed" })
	flag.Visit(func(f *flag.Flag) { one = one && f.Name != "seeds" })
	first, count := max(*seed, 1), *seeds
	if one {
		first, count = *seed, 1
	}
	o := options{nodes: *nodes, elections: *elections, referee: *referee, members: *members, plant: *plant, mode: *mode}
	if *trace {
		o.trace = os.Stdout
		*workers = 1
	}
	begun := time.Now()
	done, events, bad, err := runMany(first, count, *workers, o)
	took := time.Since(begun)
	fmt.Printf("sim: %d seeds, %d events, %.1f s, %.0f seeds/s\n", done, events, took.Seconds(), float64(done)/took.Seconds())
	if err != nil {
		fmt.Printf("sim: VIOLATION in seed %d: %v\n", bad, err)
		again := fmt.Sprintf("go run ./testcluster/sim -seed %d -trace", bad)
		if *plant != "" {
			again += " -plant " + *plant
		}
		if *mode != "" {
			again += " -mode " + *mode
		}
		if *members {
			again += " -members"
		}
		if *referee {
			again += " -referee"
		}
		if *elections {
			again += " -elections"
		}
		if *nodes != 0 {
			again += fmt.Sprintf(" -nodes %d", *nodes)
		}
		fmt.Println("sim: to see it:", again)
		os.Exit(1)
	}
}

// runMany plays count seeds from first on, several at a time, until one finds a violation; bad is the lowest seed
// among those that were found.
func runMany(first, count uint64, workers int, o options) (done, events, bad uint64, err error) {
	var (
		next  atomic.Uint64
		stop  atomic.Bool
		group sync.WaitGroup
		mu    sync.Mutex
	)
	for range workers {
		group.Go(func() {
			for !stop.Load() {
				i := next.Add(1) - 1
				if i >= count {
					return
				}
				n, failure := runSafely(first+i, o)
				mu.Lock()
				done++
				events += n
				if failure != nil && (err == nil || first+i < bad) {
					bad, err = first+i, failure
					stop.Store(true)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return done, events, bad, err
}

// runSafely makes a panic a violation like any other.
func runSafely(seed uint64, o options) (events uint64, err error) {
	defer func() {
		if r := recover(); r != nil {
			if o.trace != nil {
				panic(r)
			}
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return run(seed, o)
}
