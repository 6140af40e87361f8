package faultproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// directed is a rule as the control protocol writes it.
type directed struct {
	Direction
	Rule
}

// serveControl answers GET /rules, POST /rules (set those that are named), DELETE /rules (the network is good)
// POST /reset (break the connections of the links that are named; with ?late only for the node that dialled) and POST /links (serve one more of each that is named).
func (p *Proxy) serveControl() error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /rules", func(w http.ResponseWriter, _ *http.Request) {
		list := []directed{}
		for d, r := range p.book.all() {
			list = append(list, directed{d, r})
		}
		json.NewEncoder(w).Encode(list) //nolint:errcheck // the client left
	})
	mux.HandleFunc("POST /rules", func(w http.ResponseWriter, r *http.Request) {
		var list []directed
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&list); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		rules := map[Direction]Rule{}
		for _, one := range list {
			if err := one.Check(); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			rules[one.Direction] = one.Rule
		}
		p.book.set(rules)
	})
	mux.HandleFunc("POST /links", func(w http.ResponseWriter, r *http.Request) {
		var list []Link
		err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&list)
		for _, link := range list {
			err = errors.Join(err, p.add(link))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("DELETE /rules", func(http.ResponseWriter, *http.Request) { p.book.clear() })
	mux.HandleFunc("POST /reset", func(w http.ResponseWriter, r *http.Request) {
		var links []Direction
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&links); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p.reset(links, r.URL.Query().Has("late"))
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Second}
	defer server.Close()
	if err := server.Serve(p.control); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("fault proxy, control: %w", err)
	}
	return nil
}

// Client tells a Proxy, of this process or another, what to do.
type Client struct {
	Control string // host:port
}

// Rules gives the rules in force.
func (c Client) Rules(ctx context.Context) (map[Direction]Rule, error) {
	var list []directed
	if err := c.call(ctx, http.MethodGet, "/rules", nil, &list); err != nil {
		return nil, err
	}
	rules := map[Direction]Rule{}
	for _, one := range list {
		rules[one.Direction] = one.Rule
	}
	return rules, nil
}

// Set replaces the rules of the directions that are named.
func (c Client) Set(ctx context.Context, rules map[Direction]Rule) error {
	list := []directed{}
	for d, r := range rules {
		list = append(list, directed{d, r})
	}
	return c.call(ctx, http.MethodPost, "/rules", list, nil)
}

// Heal makes the network good.
func (c Client) Heal(ctx context.Context) error {
	return c.call(ctx, http.MethodDelete, "/rules", nil, nil)
}

// Reset breaks the connections that were dialled in the directions that are named; new ones are let through.
func (c Client) Reset(ctx context.Context, links ...Direction) error {
	return c.call(ctx, http.MethodPost, "/reset", links, nil)
}

// ResetLate breaks the connections that were dialled in the directions that are named for the nodes that dialled. The others get what is still on
// its way, as late as its rule made it: behind what the next connection brings, and perhaps a second time.
func (c Client) ResetLate(ctx context.Context, links ...Direction) error {
	return c.call(ctx, http.MethodPost, "/reset?late", links, nil)
}

// Add makes the proxy serve more links.
func (c Client) Add(ctx context.Context, links []Link) error {
	return c.call(ctx, http.MethodPost, "/links", links, nil)
}

func (c Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.Control+path, &body)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("the fault proxy does not answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("fault proxy: %s", bytes.TrimSpace(text))
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
