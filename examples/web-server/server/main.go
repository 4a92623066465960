// A server that greets whoever visits it, and counts the visits in a file.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

type config struct {
	Listen   string
	Greeting string
	Visits   string // path of the file that has their number
}

type server struct {
	config
	mutex sync.Mutex
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: visits CONFIG.json")
	}
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var s server
	if err := json.Unmarshal(text, &s.config); err != nil {
		log.Fatalf("%s: %v", os.Args[1], err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "well")
	})
	mux.HandleFunc("POST /visits/{name}", s.visit)
	log.Printf("listening on %s", s.Listen)
	log.Fatal(http.ListenAndServe(s.Listen, mux))
}

func (s *server) visit(w http.ResponseWriter, r *http.Request) {
	number, err := s.count()
	if err != nil {
		log.Print(err)
		http.Error(w, "visits cannot be counted", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	greeting := fmt.Sprintf("%s, %s", s.Greeting, r.PathValue("name"))
	json.NewEncoder(w).Encode(map[string]any{"greeting": greeting, "visit": number})
}

func (s *server) count() (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	number := 0
	text, err := os.ReadFile(s.Visits)
	if err == nil {
		number, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	number++
	// A server that is killed while it writes leaves the old file or the new one.
	if err := os.WriteFile(s.Visits+".new", fmt.Appendln(nil, number), 0o644); err != nil {
		return 0, err
	}
	return number, os.Rename(s.Visits+".new", s.Visits)
}
